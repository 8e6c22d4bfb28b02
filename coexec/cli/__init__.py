"""The command line: one module per verb. A verb reads its options, calls `coexec.api`, and prints."""
