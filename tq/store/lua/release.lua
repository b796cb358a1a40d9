-- release: put what has come due on the agenda into its queue.
-- ARGV: now, how many entries at most
-- A retry, or a job that was put off, leaves the agenda as it enters the queue, unless the job has ended
-- meanwhile. A distribution stays, for half a minute later: a distributor that dies is followed by
-- another, and one that lives sets the entry to its next slot, or removes it.
-- Returns how many messages were put into queues, how many entries were due at least, and how many are left.
-- include: now
local WATCH_MS = 30 * 1000
local BUSY_MS = 1000
local released = 0
local due = redis.call('ZRANGEBYSCORE', K.agenda(), '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))
for _, entry in ipairs(due) do
  local text = redis.call('HGET', K.agenda_messages(), entry)
  local queue, id, body = string.match(text or '', '^([^\n]*)\n([^\n]*)\n(.*)$')
  local kind, run, user = string.match(entry, '^([rp])|(.-)|(.*)$')
  if kind then
    redis.call('ZREM', K.agenda(), entry)
    redis.call('HDEL', K.agenda_messages(), entry)
    if kind == 'r' then redis.call('HINCRBY', K.run(run), 'waiting', -1) end
    if body and redis.call('HEXISTS', K.open(run), user) == 1 then
      enqueue(queue, id, body)
      released = released + 1
    end
  elseif not body then
    redis.call('ZREM', K.agenda(), entry)
  elseif queued(queue, id) then
    redis.call('ZADD', K.agenda(), now + BUSY_MS, entry)
  else
    enqueue(queue, id, body)
    redis.call('ZADD', K.agenda(), now + WATCH_MS, entry)
    released = released + 1
  end
end
return { released, #due, redis.call('ZCARD', K.agenda()) }
