"""What the elementwise step ops share on Triton: noise, coefficients, launch arithmetic and the step kernels."""
