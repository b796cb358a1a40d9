-- asked: the next of the users that a run was asked for, as `page` returns the members of a cohort.
-- Who has been disabled since is left out.
-- ARGV: now, run, task, place after which to begin, how many at most
-- include: places
local key, wanted = K.members(ARGV[2]), tonumber(ARGV[5])
local members = redis.call('ZRANGEBYSCORE', key, '(' .. ARGV[4], '+inf', 'WITHSCORES', 'LIMIT', 0, wanted)
local answer = { 2147483647 }
if #members / 2 >= wanted then
  local last = members[#members]
  answer[1] = tonumber(last)
  -- Users of one place go together, or the next page would pass the rest over.
  while members[#members] == last do
    table.remove(members)
    table.remove(members)
  end
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', key, last, last, 'WITHSCORES')) do table.insert(members, entry) end
end
local function is_enabled(user)
  local start = leaf_start(K.user_branches(), place_of(user))
  local record = start and redis.call('HGET', K.user_leaf(start), user)
  if not record then return false end
  return string.find(record .. ' ', ' +' .. ARGV[3] .. ' ', 1, true) or string.find(record .. ' ', ' *' .. ARGV[3] .. ' ', 1, true)
end

for i = 1, #members, 2 do
  if is_enabled(members[i]) then
    table.insert(answer, members[i])
    table.insert(answer, members[i + 1])
    table.insert(answer, redis.call('HGET', K.settings(ARGV[3]), members[i]) or '')
    table.insert(answer, '')
    table.insert(answer, '')
  end
end
return answer
