-- recover: put back into their queues what dead processes had fetched and not acknowledged.
-- A process is dead when its heartbeat is older than a limit; the keys are Dramatiq's.
-- KEYS[1] the broker's namespace   ARGV[1] the limit, ms   ARGV[2..] the queues
-- Returns how many messages were put back.
local ns = KEYS[1]
local heartbeats = ns .. ':__heartbeats__'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local recovered = 0
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', heartbeats, '-inf', now - tonumber(ARGV[1]))) do
  for i = 2, #ARGV do
    local acks, queue = ns .. ':__acks__.' .. dead .. '.' .. ARGV[i], ns .. ':' .. ARGV[i]
    for _, id in ipairs(redis.call('SMEMBERS', acks)) do
      if redis.call('HEXISTS', queue .. '.msgs', id) == 1 then
        redis.call('LPUSH', queue, id)
        recovered = recovered + 1
      end
    end
    redis.call('DEL', acks)
  end
  redis.call('ZREM', heartbeats, dead)
end
return recovered
