"""`scripts/dev soak MODE MINUTES`: a director under new connections at full speed, for as long as one likes."""
