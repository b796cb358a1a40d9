-- fetch: hands a process the next messages of a queue. It does what Dramatiq's own script does, which takes them
-- one by one: that costs Redis two commands for each.
-- KEYS[1] the broker's namespace
-- ARGV[1] the process   ARGV[2] the queue   ARGV[3] how many messages at most
-- Returns their bodies; false in place of one that was deleted while its id was in the queue.
local ns, process, queue = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call('TIME')
-- First: what is fetched by nobody who is known here would never be put back.
redis.call('ZADD', ns .. ':__heartbeats__', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), process)
local ids = redis.call('LPOP', ns .. ':' .. queue, ARGV[3])
if not ids then return {} end
redis.call('SADD', ns .. ':__acks__.' .. process .. '.' .. queue, unpack(ids))
return redis.call('HMGET', ns .. ':' .. queue .. '.msgs', unpack(ids))
