-- ended_by: how what is left of a run ends, if nothing of it may begin any more.
-- include: pauses
-- The status and reason with which a job of this share ends unmade; nil if it may still be made.
local function ended_by(run, task, deadline, now)
  if redis.call('HEXISTS', K.run(run), 'cancelled_at') == 1 then return 'cancelled', '' end
  if now <= deadline then return nil end
  if pause_at(task, now) or pause_at('*', now) then return 'skipped', 'paused' end
  return 'expired', ''
end
