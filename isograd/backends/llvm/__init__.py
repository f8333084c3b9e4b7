"""Native plans: machine code through LLVM."""
