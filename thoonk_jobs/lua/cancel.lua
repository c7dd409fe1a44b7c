-- cancel: claimed -> available
-- defer: claimed -> scheduled
-- exhaust: claimed -> stalled
-- lapse: available, scheduled, waiting, claimed -> finished
-- park: available -> waiting
-- release: waiting -> available
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- with: limits, lines, retention
-- flags: allow-oom
-- args: (id, token, reason, delay in ms, counted (1), or nothing for a claim given back at no cost)*
-- replies: the row's code; or {why, state}

local function cancel(id, reason, delay, counted)
  local job = T.jobs[id]
  if counted == '1' then
    T.bump(job, CANCELS)
    T.bump(job, TOTAL_CANCELS)
  end
  if counted == '1' and job[CANCELS] >= T.number_setting('max_cancels', math.huge) then
    T.move(id, 'exhaust', 'cancelled ' .. job[CANCELS] .. ' times; the last reason: ' .. reason)
  elseif delay > 0 then
    job[UNTIL], job[DATED] = T.now + delay, 0
    T.move(id, 'defer', reason)
  else
    job[ORDER] = T.draw_order()
    T.move(id, 'cancel', reason)
  end
  return job[VIA]
end

local answers = T.each(3, 5, function(id, at)
  local answer = T.ask_claimant(id, {'cancel', 'defer', 'exhaust'}, ARGV[at + 1])
  if answer then return answer end
  T.touch(id)
  return cancel(id, ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4])
end)
T.give_way()
T.release_freed()
T.trim_stalled()
T.commit()
return answers
