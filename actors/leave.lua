-- leave: a process that ends puts back into their queues what it has fetched and not acknowledged, and is
-- forgotten. What it had begun was cut off by its end and has killed nobody: it comes back as it was, and if it
-- was suspected, this time does not count.
-- KEYS[1] the broker's namespace   KEYS[2] set: what the process has begun   KEYS[3] hash: how often suspects
-- were begun
-- ARGV[1] the process   ARGV[2] the suspects' queue   ARGV[3] the name under which it was woken, or ''
-- ARGV[4..] all queues
-- Returns how many messages were put back.
local ns, process = KEYS[1], ARGV[1]
local returned = 0

local function spare(body)
  local job = cjson.decode(body).args[1]
  local suspect = job[3] .. '|' .. job[2]  -- run and user
  if (tonumber(redis.call('HGET', KEYS[3], suspect)) or 0) > 0 then redis.call('HINCRBY', KEYS[3], suspect, -1) end
end

for i = 4, #ARGV do
  local queue, acks = ns .. ':' .. ARGV[i], ns .. ':__acks__.' .. process .. '.' .. ARGV[i]
  for _, id in ipairs(redis.call('SMEMBERS', acks)) do
    local body = redis.call('HGET', queue .. '.msgs', id)
    if body then
      if ARGV[i] == ARGV[2] and redis.call('SISMEMBER', KEYS[2], id) == 1 then spare(body) end
      redis.call('LPUSH', queue, id)
      returned = returned + 1
    end
  end
  redis.call('DEL', acks)
  redis.call('ZREM', queue .. '.waiting', ARGV[3])
end
redis.call('DEL', KEYS[2])
for _, living in ipairs({ ':__heartbeats__', ':alive', ':noticed' }) do redis.call('ZREM', ns .. living, process) end
return returned
