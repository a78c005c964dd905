"""The headless replay: `evergreen demo` runs a pipeline's recorded year through the real lifecycle."""
