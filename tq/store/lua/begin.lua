-- begin: whether an attempt may be made now.
-- ARGV: now, then per attempt eight texts: run, user, number of the attempt, share, the process that works
--       it ('' if nobody has to know), the queue and id of its message, 1 if the job is suspected of having
--       killed the process that had it before, and its call follows
-- Returns per attempt its verdict and the deadline (ms):
--   go          make it
--   ended       the job has ended, or never was: drop the message
--   superseded  a later attempt is on its way: drop the message
--   cancelled   its run was cancelled
--   expired     its deadline is past
--   elsewhere   the process does not hold the message any more: others took it for dead, or Redis went back
--               to when it had not fetched it; whoever has it makes the attempt
--   crashed     it was begun too often without an end: it kills whoever works it
-- What a process has begun is noted until an end or a retry is recorded: if it dies, one of those did it.
-- A suspect is counted, too, just before its call.
-- include: now
local MOST_DEATHS, SUSPECTED_S, BEGUN_S = 3, 7 * 24 * 3600, 24 * 3600
local answers = {}
for i = 2, #ARGV, 8 do
  local run, user, attempt, share = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local state = redis.call('HGET', K.open(run), user)
  local deadline = tonumber(redis.call('HGET', K.shares(run), share .. ':deadline') or '0')
  local holder, queue, message = ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]
  local verdict
  if not state then verdict = 'ended'
  elseif string.match(state, '^%d+') ~= attempt then verdict = 'superseded'
  elseif holder ~= '' and not holds(holder, queue, message) then verdict = 'elsewhere'
  elseif redis.call('HEXISTS', K.run(run), 'cancelled_at') == 1 then verdict = 'cancelled'
  elseif now > deadline then verdict = 'expired'
  else verdict = 'go' end
  if verdict == 'go' and holder ~= '' then
    redis.call('SADD', K.begun(holder), message)
    redis.call('EXPIRE', K.begun(holder), BEGUN_S)
  end
  if verdict == 'go' and ARGV[i + 7] == '1' then
    if redis.call('HINCRBY', K.suspects(), run .. '|' .. user, 1) > MOST_DEATHS then verdict = 'crashed' end
    redis.call('EXPIRE', K.suspects(), SUSPECTED_S)
  end
  table.insert(answers, verdict)
  table.insert(answers, string.format('%d', deadline))
end
table.insert(answers, string.format('%d', now))
return answers
