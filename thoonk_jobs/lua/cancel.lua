-- cancel: claimed -> available
-- defer: claimed -> scheduled
-- exhaust: claimed -> stalled
-- release: waiting -> available
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- with: limits, retention
-- flags: allow-oom
-- args: (id, token, reason, delay in ms, counted (1), or nothing for a claim given back at no cost)*
-- replies: the row's code; or {why, state}

local function cancel(id, reason, delay, counted)
  local job = JOBS[id]
  if counted == '1' then
    bump(job, CANCELS)
    bump(job, TOTAL_CANCELS)
  end
  if counted == '1' and job[CANCELS] >= setting('max_cancels', math.huge) then
    move(id, 'exhaust', 'cancelled ' .. job[CANCELS] .. ' times; the last reason: ' .. reason)
  elseif delay > 0 then
    job[UNTIL], job[DATED] = NOW + delay, 0
    move(id, 'defer', reason)
  else
    job[ORDER] = draw_order()
    move(id, 'cancel', reason)
  end
  return job[VIA]
end

local answers = {}
for at, id in ipairs(items(3, 5)) do
  local first = 5 * at - 2
  local answer = ask(id, {'cancel', 'defer', 'exhaust'}, ARGV[first + 1])
  if not answer then
    touch(id)
    answer = cancel(id, ARGV[first + 2], tonumber(ARGV[first + 3]), ARGV[first + 4])
  end
  answers[at] = answer
end
commit()
trim_stalled()
release_freed()
return answers
