"""One function for each request code, in files by family; `registry` finds and calls them."""
