"""The commands; each is the file of its name."""

COMMANDS = {
    "train": "train a model: one run, or a sweep with -m",
    "resume": "run what is missing of a sweep",
    "evaluate": "the metrics of a run's checkpoint on a split",
    "predict": "what a run's model says of new inputs, as JSON lines",
    "generate": "how a run's model goes on with prompts",
    "export": "a run's model as files that other programs load",
    "check": "compose a run and check it, without reading data or training",
    "compare": "runs side by side: metrics with their spread over seeds, cost, curves; as a table, JSON or a page",
    "bench": "time and memory of attention mechanisms against the length",
    "conformance": "every law of its kind, tried on one plugin; the complexity of an attention mechanism",
    "plugins": "what is installed: kinds, plugins, their options and sources",
}
