"""The limiter's test track: what it measures with is right, and tells good limiters from bad ones."""
