-- restore: jobs whose message is nowhere get one again, through the agenda.
-- ARGV: now, then per job six texts: run, user, state that was seen, queue, message id, message body
-- Nothing is done for a job that has ended or gone on since, or whose message was found.
-- Returns how many were restored.
-- include: now
local restored = 0
for i = 2, #ARGV, 6 do
  local run, user, queue, id = ARGV[i], ARGV[i + 1], ARGV[i + 3], ARGV[i + 4]
  local entry = 'p|' .. run .. '|' .. user
  local waits = redis.call('ZSCORE', K.agenda(), entry) or redis.call('ZSCORE', K.agenda(), 'r|' .. run .. '|' .. user)
  if not waits and redis.call('HGET', K.open(run), user) == ARGV[i + 2] and not queued(queue, id) then
    redis.call('ZADD', K.agenda(), now, entry)
    redis.call('HSET', K.agenda_messages(), entry, queue .. '\n' .. id .. '\n' .. ARGV[i + 5])
    restored = restored + 1
  end
end
if restored > 0 then redis.call('HINCRBY', K.mended(), 'messages', restored) end
return restored
