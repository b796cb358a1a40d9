-- users: a page of users' records, in the order of their hash.
-- ARGV: now, place after which to begin (-1: at the start), how many users at least
-- Returns the place up to which everybody has been returned, then per user a list: id, record, and
-- per task in it its settings ('' when there are none).
-- include: places
local after, wanted = tonumber(ARGV[2]), tonumber(ARGV[3])
local LAST_PLACE = 2147483647
local branches = K.user_branches()
local answer = { LAST_PLACE }
local from = leaf_start(branches, after + 1)
if not from then return answer end
local limit = math.ceil(wanted / (LEAF_SIZE / 4)) + 1
local starts = redis.call('ZRANGEBYSCORE', branches, from, '+inf', 'LIMIT', 0, limit)
for i, start in ipairs(starts) do
  if #answer > wanted or i == limit then
    answer[1] = tonumber(start) - 1
    break
  end
  local entries = redis.call('HGETALL', K.user_leaf(start))
  for j = 1, #entries, 2 do
    if place_of(entries[j]) > after then
      local user, record = entries[j], entries[j + 1]
      local item = { user, record }
      for mark, task in string.gmatch(record, ' (.)(%S+)') do
        local settings = (mark == '*' or mark == '/') and redis.call('HGET', K.settings(task), user)
        table.insert(item, settings or '')
      end
      table.insert(answer, item)
    end
  end
end
return answer
