"""What the elementwise step ops share: arguments, coefficients, noise, launches and Triton kernels."""
