-- beat: a process shows that it lives, and notes since when each queue's first message has been the first.
-- ARGV: now, the process, what it is (JSON), its age (ms), for how long the silent are remembered (ms), queues ...
-- Returns the present (ms).
-- include: now
local since = string.format('%d', now - tonumber(ARGV[4]))
redis.call('ZADD', K.beats(), now, ARGV[2])
redis.call('HSET', K.processes(), ARGV[2], since .. '|' .. ARGV[3])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', K.beats(), '-inf', now - tonumber(ARGV[5]))) do
  redis.call('ZREM', K.beats(), gone)
  redis.call('HDEL', K.processes(), gone)
end
local queues = { unpack(ARGV, 6) }
local noted = redis.call('HMGET', K.firsts(), unpack(queues))
for i, queue in ipairs(queues) do
  local first = first_of(queue)
  if first == '' then
    if noted[i] then redis.call('HDEL', K.firsts(), queue) end
  elseif not noted[i] or string.match(noted[i], '^%d+|(.*)$') ~= first then
    redis.call('HSET', K.firsts(), queue, string.format('%d', now) .. '|' .. first)
  end
end
return now
