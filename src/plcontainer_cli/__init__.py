"""The command `plcontainer`: runtimes, images and sandboxes of one host, for its operators."""
