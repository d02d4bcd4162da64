"""What every benchmark shares: the table of rows, the measurement, the ceilings, the state of the machine."""
