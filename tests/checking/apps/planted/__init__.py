"""An application with every mistake that the check knows; a comment names each, on its line."""
