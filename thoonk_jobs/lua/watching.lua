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
  T.touch(id)
  if job[HOME] == process then
    job[HOME] = ''
  elseif job[WATCHED] == 1 then
    redis.call('ZREM', K.watchers, T.frame(id) .. process)
  end
  if job[UNHEARD] == 0 or T.watched(id, job) then return end
  local keep = job[KEEP] * 1000
  job[UNHEARD] = 0
  if keep < WAITED then job[UNTIL] = job[UNTIL] - WAITED + keep end
  if job[UNTIL] <= T.now then T.strip(id, job) end
end
