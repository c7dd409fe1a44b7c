-- Who hears of a job's end: its home, in the record, and further processes in the key watchers.

function T.watch(id, process)
  local job = T.jobs[id]
  if process == '' or job[HOME] == process or job[STATE] == FINISHED then return end
  local member = T.frame(id) .. process
  if job[WATCHED] == 1 and redis.call('ZSCORE', K.watchers, member) then return end
  T.touch(id)
  if job[HOME] == '' then
    job[HOME] = process
  else
    job[WATCHED] = 1
    T.watchers[#T.watchers + 1] = 0
    T.watchers[#T.watchers + 1] = member
  end
end

-- One process waits no more; a finished job that nobody waits for is kept just as long as it asked to be.
function T.unwatch(id, process)
  local job = T.jobs[id]
  local kept = job[KEEP] * 1000
  local stays = job[STATE] ~= FINISHED or job[BARE] == 1 or kept >= WAITED or not T.watched(id, job)
  if job[HOME] == process then
    T.touch(id)
    job[HOME] = ''
  elseif job[WATCHED] == 0 or redis.call('ZREM', K.watchers, T.frame(id) .. process) == 0 then
    return
  end
  if stays or T.watched(id, job) then return end
  T.touch(id)
  job[UNTIL] = job[UNTIL] - WAITED + kept
  if job[UNTIL] <= T.now then T.strip(id, job) end
end
