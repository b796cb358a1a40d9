-- finish: record how attempts came out: the end of a job, or the retry that is to follow. In the same step
-- the messages that had the attempts made are acknowledged.
-- ARGV: now, results kept per user and task, their life (s), failures kept per task, then per
--       attempt eight texts: what it shares with others, the id of its message, user, number of the attempt
--       (see `groups`), and
--       for an end: status or `status:reason`, the result, the failure in full ('' if it did not fail), 1 if its
--                     deadline passed before any call, else 0
--       for a retry: 'again', delay (ms), state, `queue\nid\nbody` of its message
-- Attempts are judged in their order, each by what those before it have left: a job may be among them twice.
-- What they change is then written for a whole run at once.
-- Returns per attempt 1, or 0 if the job has ended already or another attempt is on its way: then
-- nothing was changed. The last number is how many runs were closed.
-- include: now
-- include: places
-- include: reach
-- include: groups
-- include: ledger
local FIRST, TEXTS = 5, 8
local history, ttl_s, failures_kept = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local groups, runs, fetches = grouped(ARGV, FIRST, TEXTS)

-- Acknowledgements -------------------------------------------------------------------------------

for _, fetch in pairs(fetches) do
  if fetch.holder ~= '' then
    redis.call('SREM', K.begun(fetch.holder), unpack(fetch.messages))
    acknowledge(fetch.holder, fetch.queue, fetch.messages)
  end
end
if redis.call('EXISTS', K.suspects()) == 1 then
  for id, run in pairs(runs) do
    for _, user in ipairs(run.users) do redis.call('HDEL', K.suspects(), id .. '|' .. user) end
  end
end

-- What came out ----------------------------------------------------------------------------------

local function try_again(run, user, delay, state, message)
  run.retries = run.retries or { states = {}, entries = {}, messages = {} }
  local states, entries, messages = run.retries.states, run.retries.entries, run.retries.messages
  local n, entry = #states, 'r|' .. run.id .. '|' .. user
  states[n + 1], states[n + 2] = user, state
  entries[n + 1], entries[n + 2] = now + tonumber(delay), entry
  messages[n + 1], messages[n + 2] = entry, message
  run.states[user] = state
end

local function end_job(run, user, outcome)
  if not run.ended then run.ended, run.outcomes = {}, {} end
  run.ended[user], run.states[user] = run.states[user], false
  run.outcomes[outcome] = (run.outcomes[outcome] or 0) + 1
end

local failures = {} -- by task, `run|user` and the failure in turn
local function note_failure(task, member, failure)
  failures[task] = failures[task] or {}
  table.insert(failures[task], member)
  table.insert(failures[task], failure)
end

local answers = {}
for i = FIRST, #ARGV, TEXTS do
  local group, user, attempt, outcome = groups[ARGV[i]], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local run, answer = group.run, 1
  local state = run.states[user]
  if not state or string.match(state, '^%d+') ~= attempt then
    answer = 0
  elseif outcome == 'again' then
    try_again(run, user, ARGV[i + 5], ARGV[i + 6], ARGV[i + 7])
  else
    end_job(run, user, outcome)
    if ARGV[i + 7] == '1' then note_uncalled(run.id, share_of(state), group.task, user) end
    add_result(group.task, user, ARGV[i + 5], history, ttl_s)
    if ARGV[i + 6] ~= '' then note_failure(group.task, run.id .. '|' .. user, ARGV[i + 6]) end
  end
  table.insert(answers, answer)
end

-- What changes -----------------------------------------------------------------------------------

local function add_failures(task, added)
  local index, bodies, members = K.failures(task), K.failure(task), {}
  for k = 1, #added, 2 do members[k], members[k + 1] = now, added[k] end
  redis.call('ZADD', index, unpack(members))
  redis.call('HSET', bodies, unpack(added))
  local too_many = redis.call('ZCARD', index) - failures_kept
  local gone = redis.call('ZRANGEBYSCORE', index, '-inf', now - ttl_s * 1000, 'LIMIT', 0, 20 + #added)
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

local closed = 0
for id, run in pairs(runs) do
  -- Retries first: the job of one may have ended after it.
  if run.retries then
    redis.call('HSET', K.open(id), unpack(run.retries.states))
    redis.call('HINCRBY', K.run(id), 'waiting', redis.call('ZADD', K.agenda(), unpack(run.retries.entries)))
    redis.call('HSET', K.agenda_messages(), unpack(run.retries.messages))
    count(id, 'retries', '', #run.retries.states / 2)
  end
  if run.ended then
    close_jobs(id, run.ended)
    for outcome, jobs in pairs(run.outcomes) do
      local status, reason = string.match(outcome, '^([^:]*):?(.*)$')
      count(id, status, reason, jobs)
    end
    if close_if_done(id, now) then closed = closed + 1 end
  end
end
for task, added in pairs(failures) do add_failures(task, added) end
table.insert(answers, closed)
return answers
