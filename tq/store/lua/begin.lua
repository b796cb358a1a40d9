-- begin: whether attempts may be made now.
-- ARGV: now, then per attempt five texts (see `verdicts`)
-- Returns per attempt its verdict and the deadline (ms), then the present (ms).
-- include: now
-- include: verdicts
return verdicts(ARGV, 2)
