-- reach: how far a run came in the order of a share. Comes after `places`.
-- What is noted is the first position from which on it did not reach everybody: whose user got no call before
-- the share's deadline. There the next run of the same users begins.
local function note_unreached(run, share, position)
  local noted = redis.call('HGET', K.shares(run), share .. ':unreached')
  if noted and tonumber(noted) <= position then return end
  redis.call('HSET', K.shares(run), share .. ':unreached', string.format('%d', position))
end

-- The same of a user whose job ends without any call.
local function note_uncalled(run, share, task, user)
  local first = tonumber(redis.call('HGET', K.shares(run), share .. ':first') or '0')
  note_unreached(run, share, position_of(place_of(task .. '|' .. user), first))
end
