-- watch: one process at a time tells of what is not well; what it has told is kept here for the next one.
-- ARGV: now, the process, for how long it is the one (ms; 0: no longer), field, value ... ('' forgets a field)
-- Returns '1' if it is the one, else ''; the present (ms); all fields with their values, in turns.
-- What another one would write is left out: it has lost the watch, and what it knows is old.
-- include: now
local holder, until_ = string.match(redis.call('HGET', K.alerts(), '@watcher') or '', '^(.*)|(%d+)$')
if holder and holder ~= ARGV[2] and tonumber(until_) > now then return { '', now, {} } end
local lasts = tonumber(ARGV[3])
if lasts > 0 then
  redis.call('HSET', K.alerts(), '@watcher', ARGV[2] .. '|' .. string.format('%d', now + lasts))
else
  redis.call('HDEL', K.alerts(), '@watcher')
end
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', K.alerts(), ARGV[i])
  else
    redis.call('HSET', K.alerts(), ARGV[i], ARGV[i + 1])
  end
end
return { '1', now, redis.call('HGETALL', K.alerts()) }
