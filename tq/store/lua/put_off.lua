-- put_off: jobs' messages that a process has fetched and not begun go onto the agenda for a while.
-- ARGV: now, the process that has fetched them ('' where the broker does not note who has), then per
--       message seven texts: run, user, number of the attempt, delay (ms), queue, message id, and the
--       body ('' if the broker has it)
-- One that the process does not hold any more was put back into its queue by somebody who took the
-- process for dead: it is left as it is. One whose job has ended, or has a later attempt on its way, is
-- dropped. An entry and its message change together, so whoever dies in between leaves nothing half done.
-- Returns how many messages went onto the agenda.
-- include: now
local put_off = 0
for i = 3, #ARGV, 7 do
  local run, user, attempt = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local queue, id = ARGV[i + 4], ARGV[i + 5]
  local body = take_back(ARGV[2], queue, id, ARGV[i + 6])
  redis.call('SREM', K.begun(ARGV[2]), id)
  local state = body and redis.call('HGET', K.open(run), user)
  if state and string.match(state, '^%d+') == attempt then
    local entry = 'p|' .. run .. '|' .. user
    redis.call('ZADD', K.agenda(), now + tonumber(ARGV[i + 3]), entry)
    redis.call('HSET', K.agenda_messages(), entry, queue .. '\n' .. id .. '\n' .. body)
    put_off = put_off + 1
  end
end
return put_off
