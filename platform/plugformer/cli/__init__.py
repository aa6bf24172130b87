"""The command line, one file a command: the only place but hydra_plugins that knows Hydra."""
