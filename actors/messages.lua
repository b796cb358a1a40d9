-- messages: how they are taken from a queue, and a job's is read. It does what Dramatiq's own script does,
-- which takes them one by one: that costs Redis two commands for each.
-- Who has emptied the queue and has room left is noted in the same step as one that waits for more: whoever puts
-- messages there wakes as many of those as it puts, and no others (`wake` in actors/transport.py).

-- Gives a process at most so many messages. It is woken under the name `waiter`, unless that is '', if it has room
-- for `least` more then; `busy_with` is how many messages it has, of all queues.
-- Returns their ids and their bodies; false in place of one that was deleted while its id was in the queue.
local function fetch(process, queue, most, waiter, least, busy_with)
  local MOST_WAITING = 1000 -- among them those that have ended and could not say so
  -- Who has less to do is woken first; where that is about the same, who came last: so of processes that have next to
  -- nothing to do one is at work, and what the others keep ready stays cold.
  local ABOUT_SAME, LEVEL = 4, 1e13 -- later than any time in ms
  local time = redis.call('TIME')
  local instant = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  -- First: what is fetched by nobody who is known here would never be put back.
  redis.call('ZADD', BROKER .. ':__heartbeats__', instant, process)
  local list = BROKER .. ':' .. queue
  local ids = redis.call('LPOP', list, most) or {}
  if waiter ~= '' then
    if most - #ids >= least then
      local level = LEVEL * math.floor((busy_with + #ids) / ABOUT_SAME)
      redis.call('ZADD', list .. '.waiting', level - instant, waiter)
      redis.call('ZREMRANGEBYRANK', list .. '.waiting', MOST_WAITING, -1)
    else
      redis.call('ZREM', list .. '.waiting', waiter)
    end
  end
  if #ids == 0 then return ids, {} end
  redis.call('SADD', BROKER .. ':__acks__.' .. process .. '.' .. queue, unpack(ids))
  return ids, redis.call('HMGET', list .. '.msgs', unpack(ids))
end

-- Whose job a message has carried out, and which attempt at it, all in texts; nil if it is no such message.
local function job_in(body)
  local is_one, job = pcall(function()
    local message = cjson.decode(body)
    assert(message.actor_name == 'execute')
    local task, user, run, _, _, _, _, share, attempt = unpack(message.args[1])
    local function text(value) return (assert(type(value) == 'string' and value)) end
    local function whole(value) return string.format('%d', value) end
    return { task = text(task), user = text(user), run = text(run), share = whole(share), attempt = whole(attempt) }
  end)
  return is_one and job or nil
end
