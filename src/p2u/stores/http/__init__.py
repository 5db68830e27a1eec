"""A package on a web server or bucket, by GET and Range."""
