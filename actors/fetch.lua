-- fetch: hands a process the next messages of a queue. It does what Dramatiq's own script does, which takes them
-- one by one: that costs Redis two commands for each.
-- Who has emptied the queue and has room left is noted in the same step as one that waits for more: whoever puts
-- messages there wakes as many of those as it puts, and no others (`wake` in actors/transport.py).
-- KEYS[1] the broker's namespace
-- ARGV[1] the process   ARGV[2] the queue   ARGV[3] how many messages at most   ARGV[4] the name under which the
-- process is woken, '' if it cannot be   ARGV[5] for how many more it must have room to be woken   ARGV[6] how many
-- messages it has, of all queues
-- Returns their bodies; false in place of one that was deleted while its id was in the queue.
local ns, process, queue, most, waiter = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local MOST_WAITING = 1000 -- among them those that have ended and could not say so
-- Who has less to do is woken first; where that is about the same, who came last: so of processes that have next to
-- nothing to do one is at work, and what the others keep ready stays cold.
local ABOUT_SAME, LEVEL = 4, 1e13 -- later than any time in ms
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- First: what is fetched by nobody who is known here would never be put back.
redis.call('ZADD', ns .. ':__heartbeats__', now, process)
local ids = redis.call('LPOP', ns .. ':' .. queue, most) or {}
if waiter ~= '' then
  local waiting = ns .. ':' .. queue .. '.waiting'
  if most - #ids >= tonumber(ARGV[5]) then
    redis.call('ZADD', waiting, LEVEL * math.floor((ARGV[6] + #ids) / ABOUT_SAME) - now, waiter)
    redis.call('ZREMRANGEBYRANK', waiting, MOST_WAITING, -1)
  else
    redis.call('ZREM', waiting, waiter)
  end
end
if #ids == 0 then return {} end
redis.call('SADD', ns .. ':__acks__.' .. process .. '.' .. queue, unpack(ids))
return redis.call('HMGET', ns .. ':' .. queue .. '.msgs', unpack(ids))
