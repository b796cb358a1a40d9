-- user: one user's record.
-- ARGV: now, user
-- Returns the record, then per task in it its settings ('' when there are none); or nothing.
-- include: places
local user = ARGV[2]
local start = leaf_start(K.user_branches(), place_of(user))
local record = start and redis.call('HGET', K.user_leaf(start), user)
if not record then return {} end
local answer = { record }
for mark, task in string.gmatch(record, ' (.)(%S+)') do
  local settings = (mark == '*' or mark == '/') and redis.call('HGET', K.settings(task), user)
  table.insert(answer, settings or '')
end
return answer
