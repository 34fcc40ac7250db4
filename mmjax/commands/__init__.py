"""The doors: flags, the `mmjax` command, and the same from Python."""
