"""The operating system: clocks, signals, threads, processes, and the log. Knows neither Redis nor Django."""
