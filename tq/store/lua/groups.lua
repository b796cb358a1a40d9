-- groups: what many jobs have in common is told, asked and noted once for all of them.
-- Of `given`, each job has `texts` texts, from `first` on. Its first is what it shares with others:
-- `run|task|share|process|queue`, the last two of them '' where nobody has noted who has fetched its message.
-- Then come the id of its message, its user, the number of its attempt, and whatever else a script wants.
-- No more than some thousand jobs at a time: a command of a script has no room for more.

-- Returns three tables:
--   groups   by the text that jobs share: their task and share, their run and fetch out of the other two
--   runs     by id: users, and by user what the open set says, which is false of who has no open job there
--   fetches  by `process|queue`: the messages that the process was handed from there
local function grouped(given, first, texts)
  local groups, runs, fetches = {}, {}, {}
  for i = first, #given, texts do
    local group = groups[given[i]]
    if not group then
      local run, task, share, fetch = string.match(given[i], '^([^|]*)|([^|]*)|([^|]*)|(.*)$')
      if not runs[run] then runs[run] = { id = run, users = {}, states = {} } end
      if not fetches[fetch] then
        local holder, queue = string.match(fetch, '^([^|]*)|(.*)$')
        fetches[fetch] = { holder = holder, queue = queue, messages = {} }
      end
      group = { run = runs[run], fetch = fetches[fetch], task = task, share = share }
      groups[given[i]] = group
    end
    local messages, users = group.fetch.messages, group.run.users
    messages[#messages + 1], users[#users + 1] = given[i + 1], given[i + 2]
  end
  for id, run in pairs(runs) do
    local states = redis.call('HMGET', K.open(id), unpack(run.users))
    for k, user in ipairs(run.users) do run.states[user] = states[k] end
  end
  return groups, runs, fetches
end
