-- mender: one process at a time looks for what has stalled.
-- ARGV: now, the process, for how long it is the one (ms)
-- Returns 1 if it is.
-- include: now
local holder, until_ = string.match(redis.call('GET', K.mender()) or '', '^(.*)|(%d+)$')
if holder and holder ~= ARGV[2] and tonumber(until_) > now then return 0 end
redis.call('SET', K.mender(), ARGV[2] .. '|' .. string.format('%d', now + tonumber(ARGV[3])))
return 1
