"""Read a package from a web server or bucket, with GET and Range."""
