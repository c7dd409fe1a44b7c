-- fail: claimed -> finished
-- reattempt: claimed -> available
-- reattempt_later: claimed -> scheduled
-- exhaust: claimed -> stalled
-- lapse: available, scheduled, waiting, claimed -> finished
-- park: available -> waiting
-- release: waiting -> available
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- purge: finished -> absent
-- with: limits, lines, blocking, retention
-- flags: allow-oom
-- args: (id, token, error, final (1) or nothing, delay in ms before another attempt)*
-- replies: the row's code; or {why, state}

local function fail(id, final, delay)
  local job = T.jobs[id]
  T.bump(job, FAILURES)
  T.bump(job, TOTAL_FAILURES)
  if final == '1' then
    T.move(id, 'fail')
  elseif job[MAX_ATTEMPTS] > 0 and job[FAILURES] >= job[MAX_ATTEMPTS] then
    T.move(id, 'exhaust', 'failed ' .. job[FAILURES] .. ' of ' .. job[MAX_ATTEMPTS] .. ' attempts')
  elseif delay > 0 then
    job[UNTIL], job[DATED] = T.now + delay, 0
    T.move(id, 'reattempt_later')
  else
    job[ORDER] = T.draw_order()
    T.move(id, 'reattempt')
  end
  return job[VIA]
end

local answers = T.each(3, 5, function(id, at)
  local answer = T.ask_claimant(id, {'fail', 'reattempt', 'reattempt_later', 'exhaust'}, ARGV[at + 1])
  if answer then return answer end
  T.touch(id)
  if T.limited ~= '' then T.count_failure(T.jobs[id][KEY]) end
  answer = fail(id, ARGV[at + 3], tonumber(ARGV[at + 4]))
  T.keep_result(id, ARGV[at + 2])
  return answer
end)
T.give_way()
T.release_freed()
T.trim_stalled()
T.trim_finished()
T.commit()
return answers
