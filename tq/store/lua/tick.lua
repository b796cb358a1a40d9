-- tick: look at the clock and at what is due, and show that the scheduler lives.
-- ARGV: now, how many due entries to return at most
-- Returns the present (ms), version and fingerprint of the published definitions, then the due
-- entries, each with the first instant (ms) that nobody has looked at.
-- include: now
if tonumber(ARGV[2]) > 0 then redis.call('HSET', K.heartbeat(), 'tick', string.format('%d', now)) end
local published = redis.call('HMGET', K.published(), 'version', 'fingerprint')
local answer = { now, published[1] or '0', published[2] or '' }
local due = redis.call('ZRANGEBYSCORE', K.due(), '-inf', now, 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[2]))
for i = 1, #due do table.insert(answer, due[i]) end
return answer
