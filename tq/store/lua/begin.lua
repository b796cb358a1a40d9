-- begin: whether an attempt may be made now.
-- ARGV: now, then per attempt four texts: run, user, number of the attempt, share
-- Returns per attempt its verdict and the deadline (ms):
--   go          make it
--   ended       the job has ended, or never was: drop the message
--   superseded  a later attempt is on its way: drop the message
--   cancelled   its run was cancelled
--   expired     its deadline is past
-- include: now
local answers = {}
for i = 2, #ARGV, 4 do
  local run, user, attempt, share = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local state = redis.call('HGET', K.open(run), user)
  local deadline = tonumber(redis.call('HGET', K.shares(run), share .. ':deadline') or '0')
  local verdict
  if not state then verdict = 'ended'
  elseif string.match(state, '^%d+') ~= attempt then verdict = 'superseded'
  elseif redis.call('HEXISTS', K.run(run), 'cancelled_at') == 1 then verdict = 'cancelled'
  elseif now > deadline then verdict = 'expired'
  else verdict = 'go' end
  table.insert(answers, verdict)
  table.insert(answers, string.format('%d', deadline))
end
table.insert(answers, string.format('%d', now))
return answers
