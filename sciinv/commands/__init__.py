"""The verbs of the command line, thin: each reads its flags, calls the library and prints."""
