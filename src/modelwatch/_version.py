"""The version of the library, for the build and for `modelwatch_build_info`."""

__version__ = "0.1.0"
