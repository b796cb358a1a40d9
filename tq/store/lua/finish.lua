-- finish: record how attempts came out: the end of a job, or the retry that is to follow. In the same step
-- the message that had the attempt made is acknowledged.
-- ARGV: now, results kept per user and task, their life (s), failures kept per task, then per
--       attempt fourteen texts:
--       the process that has worked it ('' if that was not noted), the queue and id of its message,
--       run, user, task, number of the attempt, status ('again' for a retry), reason,
--       and for an end: the result, the failure in full ('' if it did not fail), 1 if its deadline passed
--                       before any call, '', ''
--       for a retry: delay (ms), state, queue, message id, message body
-- Returns per attempt 1, or 0 if the job has ended already or another attempt is on its way: then
-- nothing was changed. The last number is how many runs were closed.
-- include: now
-- include: places
-- include: reach
-- include: ledger
local history, ttl_s, failures_kept = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local function add_failure(task, member, failure)
  local index, bodies = K.failures(task), K.failure(task)
  redis.call('ZADD', index, now, member)
  redis.call('HSET', bodies, member, failure)
  local too_many = redis.call('ZCARD', index) - failures_kept
  local gone = redis.call('ZRANGEBYSCORE', index, '-inf', now - ttl_s * 1000, 'LIMIT', 0, 20)
  if too_many > 0 then
    for _, oldest in ipairs(redis.call('ZRANGE', index, 0, too_many - 1)) do table.insert(gone, oldest) end
  end
  for _, old in ipairs(gone) do
    redis.call('ZREM', index, old)
    redis.call('HDEL', bodies, old)
  end
  redis.call('EXPIRE', index, ttl_s)
  redis.call('EXPIRE', bodies, ttl_s)
end

local any_suspects = redis.call('EXISTS', K.suspects()) == 1
local answers, closed = {}, 0
for k = 5, #ARGV, 14 do
  local holder, i = ARGV[k], k + 3
  if holder ~= '' then
    redis.call('SREM', K.begun(holder), ARGV[k + 2])
    acknowledge(holder, ARGV[k + 1], ARGV[k + 2])
  end
  local run, user, task, attempt, status = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local state = redis.call('HGET', K.open(run), user)
  if any_suspects then redis.call('HDEL', K.suspects(), run .. '|' .. user) end
  if not state or string.match(state, '^%d+') ~= attempt then
    table.insert(answers, 0)
  elseif status == 'again' then
    local entry = 'r|' .. run .. '|' .. user
    redis.call('HSET', K.open(run), user, ARGV[i + 7])
    local waiting = redis.call('ZADD', K.agenda(), now + tonumber(ARGV[i + 6]), entry)
    redis.call('HINCRBY', K.run(run), 'waiting', waiting)
    redis.call('HSET', K.agenda_messages(), entry, ARGV[i + 8] .. '\n' .. ARGV[i + 9] .. '\n' .. ARGV[i + 10])
    redis.call('HINCRBY', K.run(run), 'retries', 1)
    table.insert(answers, 1)
  else
    close_job(run, user, state)
    if ARGV[i + 8] == '1' then note_uncalled(run, share_of(state), task, user) end
    count(run, status, ARGV[i + 5], 1)
    add_result(task, user, ARGV[i + 6], history, ttl_s)
    if ARGV[i + 7] ~= '' then add_failure(task, run .. '|' .. user, ARGV[i + 7]) end
    if close_if_done(run, now) then closed = closed + 1 end
    table.insert(answers, 1)
  end
end
table.insert(answers, closed)
return answers
