-- verdicts: whether attempts may be made now. What a process has begun is noted in the same step, until an end or
-- a retry is recorded: if it dies, one of those did it. A suspect is counted, too, just before its call.
--   go          make it
--   ended       the job has ended, or never was: drop the message
--   superseded  a later attempt is on its way: drop the message
--   cancelled   its run was cancelled
--   expired     its deadline is past
--   elsewhere   the process does not hold the message any more: others took it for dead, or Redis went back
--               to when it had not fetched it; whoever has it makes the attempt
--   crashed     it was begun too often without an end: it kills whoever works it
-- include: groups
local MOST_DEATHS, SUSPECTED_S, BEGUN_S = 3, 7 * 24 * 3600, 24 * 3600

-- Of `given`, each attempt has five texts, from `first` on: what it shares with others, the id of its message, user,
-- number of the attempt (see `groups`), 1 if the job is suspected of having killed the process that had it before,
-- and its call follows.
-- Returns per attempt its verdict and the deadline (ms), then the present (ms).
local function verdicts(given, first)
  local TEXTS = 5
  local groups, runs, fetches = grouped(given, first, TEXTS)
  for id, run in pairs(runs) do run.is_cancelled = redis.call('HEXISTS', K.run(id), 'cancelled_at') == 1 end
  for _, group in pairs(groups) do
    group.deadline = redis.call('HGET', K.shares(group.run.id), group.share .. ':deadline') or '0'
    group.is_over = now > tonumber(group.deadline)
  end
  for _, fetch in pairs(fetches) do
    if fetch.holder ~= '' then fetch.held, fetch.begun = holds(fetch.holder, fetch.queue, fetch.messages), {} end
  end

  local answers = {}
  for i = first, #given, TEXTS do
    local shared, message, user, attempt, is_suspect = unpack(given, i, i + TEXTS - 1)
    local group = groups[shared]
    local run, fetch = group.run, group.fetch
    local state, verdict = run.states[user], nil
    if not state then verdict = 'ended'
    elseif string.match(state, '^%d+') ~= attempt then verdict = 'superseded'
    elseif fetch.held and not fetch.held[message] then verdict = 'elsewhere'
    elseif run.is_cancelled then verdict = 'cancelled'
    elseif group.is_over then verdict = 'expired'
    else verdict = 'go' end
    if verdict == 'go' and fetch.begun then table.insert(fetch.begun, message) end
    if verdict == 'go' and is_suspect == '1' then
      if redis.call('HINCRBY', K.suspects(), run.id .. '|' .. user, 1) > MOST_DEATHS then verdict = 'crashed' end
      redis.call('EXPIRE', K.suspects(), SUSPECTED_S)
    end
    table.insert(answers, verdict)
    table.insert(answers, group.deadline)
  end
  for _, fetch in pairs(fetches) do
    if fetch.begun and #fetch.begun > 0 then
      redis.call('SADD', K.begun(fetch.holder), unpack(fetch.begun))
      redis.call('EXPIRE', K.begun(fetch.holder), BEGUN_S)
    end
  end
  table.insert(answers, string.format('%d', now))
  return answers
end
