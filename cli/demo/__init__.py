"""The headless replay: `evergreen demo` runs recorded data through the real lifecycle."""
