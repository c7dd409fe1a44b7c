-- fail: claimed -> finished
-- reattempt: claimed -> available
-- reattempt_later: claimed -> scheduled
-- exhaust: claimed -> stalled
-- release: waiting -> available
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- purge: finished -> absent
-- with: limits, retention
-- flags: allow-oom
-- args: (id, token, error, final (1) or nothing, delay in ms before another attempt)*
-- replies: the row's code; or {why, state}

local function fail(id, final, delay)
  local job = JOBS[id]
  bump(job, FAILURES)
  bump(job, TOTAL_FAILURES)
  if final == '1' then
    move(id, 'fail')
  elseif job[MAX_ATTEMPTS] > 0 and job[FAILURES] >= job[MAX_ATTEMPTS] then
    move(id, 'exhaust', 'failed ' .. job[FAILURES] .. ' of ' .. job[MAX_ATTEMPTS] .. ' attempts')
  elseif delay > 0 then
    job[UNTIL], job[DATED] = NOW + delay, 0
    move(id, 'reattempt_later')
  else
    job[ORDER] = draw_order()
    move(id, 'reattempt')
  end
  return job[VIA]
end

local answers = {}
for at, id in ipairs(items(3, 5)) do
  local first = 5 * at - 2
  local answer = ask(id, {'fail', 'reattempt', 'reattempt_later', 'exhaust'}, ARGV[first + 1])
  if not answer then
    touch(id)
    answer = fail(id, ARGV[first + 3], tonumber(ARGV[first + 4]))
    keep_result(id, ARGV[first + 2])
  end
  answers[at] = answer
end
commit()
trim_stalled()
trim_finished()
release_freed()
return answers
