-- signs: what tells whether all is well, seen at one instant; changes nothing.
-- ARGV: now, at how many runs that have ended to look, queues ...
-- Returns the present (ms); the last tick (ms) or ''; when (ms) the agenda's first entry is due or '', how many
-- entries are overdue, how many there are; what was mended, how often, in turns; per queue its name, how many
-- messages wait, since when (ms) the first is known to be the first or '', how many dead letters; per process when it was
-- seen and what it is; how many runs are under way; per run that is late or does not add up its id, its
-- deadline (ms), '1' if it is under way, its jobs expected, ended and open.
-- include: now
local first = redis.call('ZRANGE', K.agenda(), 0, 0, 'WITHSCORES')
local agenda = { first[2] or '', redis.call('ZCOUNT', K.agenda(), '-inf', now), redis.call('ZCARD', K.agenda()) }

local queues = {}
for i = 3, #ARGV do
  local waiting, dead = backlog(ARGV[i])
  local since, noted = string.match(redis.call('HGET', K.firsts(), ARGV[i]) or '', '^(%d+)|(.*)$')
  table.insert(queues, { ARGV[i], waiting, noted == first_of(ARGV[i]) and since or '', dead })
end

local processes = {}
local beats = redis.call('ZRANGE', K.beats(), 0, -1, 'WITHSCORES')
for i = 1, #beats, 2 do
  local facts = redis.call('HGET', K.processes(), beats[i])
  if facts then table.insert(processes, { beats[i + 1], facts }) end
end

local striking, running = {}, redis.call('SMEMBERS', K.running())
local function look_at(run, is_running)
  local found = redis.call('HMGET', K.run(run), 'deadline_at', 'expected', 'success', 'failed', 'expired', 'cancelled', 'skipped')
  if not found[1] then return end
  local expected, ended, open = tonumber(found[2] or 0), 0, redis.call('HLEN', K.open(run))
  for i = 3, 7 do ended = ended + tonumber(found[i] or 0) end
  local is_late = is_running and tonumber(found[1]) < now
  if is_late or expected ~= ended + open or (open > 0 and not is_running) then
    table.insert(striking, { run, found[1], is_running and '1' or '', expected, ended, open })
  end
end
local is_running = {}
for _, run in ipairs(running) do
  is_running[run] = true
  look_at(run, true)
end
for _, run in ipairs(redis.call('ZREVRANGE', K.runs(), 0, tonumber(ARGV[2]) - 1)) do
  if not is_running[run] then look_at(run, false) end
end
return {
  now, redis.call('HGET', K.heartbeat(), 'tick') or '', agenda, redis.call('HGETALL', K.mended()), queues, processes,
  #running, striking,
}
