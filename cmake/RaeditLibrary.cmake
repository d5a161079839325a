# the shared library
