-- Who hears of a job's end: its home, in the record, and further processes in the key watchers.

local function watch(id, process)
  local job = JOBS[id]
  if process == '' or job[HOME] == process or job[STATE] == FINISHED then return end
  local member = frame(id) .. process
  if job[WATCHED] == 1 and redis.call('ZSCORE', K.watchers, member) then return end
  touch(id)
  if job[HOME] == '' then
    job[HOME] = process
  else
    job[WATCHED] = 1
    WATCHERS[#WATCHERS + 1] = 0
    WATCHERS[#WATCHERS + 1] = member
  end
end

-- One process waits no more; a finished job that nobody waits for is kept just as long as it asked to be.
local function unwatch(id, process)
  local job = JOBS[id]
  local kept = job[KEEP] * 1000
  local stays = job[STATE] ~= FINISHED or job[BARE] == 1 or kept >= WAITED or not watched(id, job)
  if job[HOME] == process then
    touch(id)
    job[HOME] = ''
  elseif job[WATCHED] == 0 or redis.call('ZREM', K.watchers, frame(id) .. process) == 0 then
    return
  end
  if stays or watched(id, job) then return end
  touch(id)
  job[UNTIL] = job[UNTIL] - WAITED + kept
  if job[UNTIL] <= NOW then strip(id, job) end
end
