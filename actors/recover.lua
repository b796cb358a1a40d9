-- recover: show that the caller lives, and put back into their queues what dead processes had fetched
-- and not acknowledged.
-- Who lives is noted by Redis' own time, in a set of ours: Dramatiq's heartbeats are by the clients'
-- clocks, and stop while a process has all that it may fetch. A process that has fetched and is not in
-- that set, because it died before it came this far or Redis forgot that it did, is noticed, and has
-- as long from then on.
-- While Redis itself is away, or takes nothing, nobody can show that it lives: that time counts for no one.
-- One of the jobs that a dead process had begun may have killed it. Those become suspects: they wait in a
-- queue of their own, from which each is worked alone.
-- KEYS[1] the broker's namespace   KEYS[2] how the set begins of what a process has begun
-- ARGV[1] the caller   ARGV[2] the limit, ms   ARGV[3] the suspects' queue   ARGV[4] how many of the queues
-- that follow hold jobs   ARGV[5..] the queues, those first
-- Returns how many messages were put back, 1 if the caller had been taken for dead, and the server's run id.
local ns = KEYS[1]
local heartbeats, alive, noticed, looked = ns .. ':__heartbeats__', ns .. ':alive', ns .. ':noticed', ns .. ':looked'
local limit = tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local silence = now - tonumber(redis.call('GET', looked) or now)
redis.call('SET', looked, string.format('%d', now))
if silence > limit / 2 then -- every process looks several times in so long
  for _, seen in ipairs({ alive, noticed }) do
    for _, process in ipairs(redis.call('ZRANGE', seen, 0, -1)) do redis.call('ZINCRBY', seen, silence, process) end
  end
end
local is_known = redis.call('ZSCORE', alive, ARGV[1])
redis.call('ZADD', alive, now, ARGV[1])
redis.call('ZREM', noticed, ARGV[1])

local function is_dead(process)
  local seen = redis.call('ZSCORE', alive, process)
  if not seen then
    redis.call('ZADD', noticed, 'NX', now, process)
    seen = redis.call('ZSCORE', noticed, process)
  end
  return tonumber(seen) < now - limit
end

local suspects, job_queues = ns .. ':' .. ARGV[3], tonumber(ARGV[4])

-- Puts a message back to the head of its queue, or to the suspects; returns how many messages that were.
local function put_back(queue, id, is_suspect)
  local body = redis.call('HGET', queue .. '.msgs', id)
  if not body then return 0 end
  if is_suspect and queue ~= suspects then
    -- Our messages begin with their queue; Dramatiq acknowledges a message where it says it is.
    local suspect, changed = string.gsub(body, '^{"queue_name":"[^"]*"', '{"queue_name":"' .. ARGV[3] .. '"', 1)
    if changed == 1 then
      redis.call('HDEL', queue .. '.msgs', id)
      redis.call('HSET', suspects .. '.msgs', id, suspect)
      queue = suspects
    end
  end
  redis.call('LPUSH', queue, id)
  return 1
end

local recovered = 0
for _, process in ipairs(redis.call('ZRANGE', heartbeats, 0, -1)) do
  if is_dead(process) then
    local begun = KEYS[2] .. process
    for i = 5, #ARGV do
      local acks, queue = ns .. ':__acks__.' .. process .. '.' .. ARGV[i], ns .. ':' .. ARGV[i]
      for _, id in ipairs(redis.call('SMEMBERS', acks)) do
        local is_suspect = i - 4 <= job_queues and redis.call('SISMEMBER', begun, id) == 1
        recovered = recovered + put_back(queue, id, is_suspect)
      end
      redis.call('DEL', acks)
    end
    redis.call('DEL', begun)
    redis.call('ZREM', heartbeats, process)
    redis.call('ZREM', alive, process)
    redis.call('ZREM', noticed, process)
  end
end
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
return { recovered, is_known and 0 or 1, run_id }
