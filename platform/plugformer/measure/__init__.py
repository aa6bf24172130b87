"""What a call costs: peak memory, time, and how both grow with the length.

sizes = [peak_memory(lambda: f(x)) for x in inputs]
seconds = interleaved_times({"mine": lambda: f(x), "exact": lambda: g(x)}, repeats=5)
growth = fit_exponent(lengths, sizes)        # Exponent(value=1.01, standard_error=0.004)
length = crossover(lengths, mine, exact)     # from which on mine is cheaper
"""

from plugformer.measure.growth import Exponent, crossover, fit_exponent
from plugformer.measure.memory import peak_memory
from plugformer.measure.timing import interleaved_times

__all__ = ["Exponent", "crossover", "fit_exponent", "interleaved_times", "peak_memory"]
