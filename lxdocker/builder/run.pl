# run.pl ROOT STEP SECRETS PRCTL LIMIT: runs a command in the unpacked image at ROOT, which prepare.sh has prepared. It has
# process, mount, network and other namespaces of its own, whose root is ROOT: nothing else of the builder is there, and
# whatever it leaves running is killed at its end. It has the capabilities that Docker gives to the commands of a build.
# STEP is a folder with a file `step`, whose fields each have a NUL at their end: NETWORK (yes: the one that network.sh has
# made; or no), TIMEOUT (seconds),
# USER, FOLDER, PLACE (where the files in the folder SECRETS go in the image, or nothing), the number of variables, the
# variables, the command. PRCTL is the number of prctl(2). The image may grow to LIMIT KiB, by default (0) to three times
# its size and 2 GiB more.
# stdout has a line `said TEXT` for each line of its output, of much output not all. stderr says why it failed, with its
# last lines. Exit status: the command's, 124 if it took too long, 137 if it was killed.
my $inside = $ARGV[0] eq '--inside' and shift;
my ($root, $step, $secrets, $prctl, $limit) = @ARGV;
my $bb = '/bin/busybox';
my $image_bb = '/busybox-lxd'; # the same, in the image
my ($most_lines, $last_lines, $most_bytes) = (1000, 20, 900);

sub fields {
	local $/ = "\0";
	open my $file, '<', "$step/step" or die "reading the step failed: $!\n";
	my @fields = <$file>;
	chomp @fields;
	return @fields;
}

my ($network, $timeout, $user, $folder, $place, $count, @rest) = fields();
my @count = ($bb, 'sh', '-c', "$bb du -skx \"\$1\"; $bb find \"\$1\" -xdev | $bb wc -l", 'count', $root);
my %environment = map { split /=/, $_, 2 } splice @rest, 0, $count;
my @command = @rest;

sub holder { open my $file, '<', '/run/build/network' or die "there is no network: $!\n"; return <$file> + 0 }

sub uptime { open my $file, '<', '/proc/uptime'; return (split ' ', <$file>)[0] }

# Starts COMMAND; returns what its output is read from, and its process, or nothing where there can be no more processes:
# Perl's own open and system would try again and again, so a command that makes very many would end all watching.
sub start { # COMMAND…
	pipe my $from, my $to or return;
	my $pid = fork // return;
	if (!$pid) {
		open STDOUT, '>&', $to;
		open STDERR, '>', '/dev/null';
		exec @_;
		exit 127;
	}
	return ($from, $pid);
}

sub output { # COMMAND…
	my ($from, $pid) = start(@_) or return '';
	local $/;
	my $text = <$from>;
	waitpid $pid, 0;
	return $text // '';
}

$inside ? inside() : outside();

sub outside {
	$limit ||= 3 * taken(output(@count)) + (2 << 20);
	pipe my $from, my $to or die "making a pipe failed: $!\n";
	chmod 0666, $to; # whoever runs the command may open /dev/stdout by name, as under Docker
	my $pid = fork // die "starting it failed: $!\n";
	setpgrp $pid, $pid; # by both: whoever is first
	if (!$pid) {
		setpgrp 0, 0;
		open STDIN, '<', '/dev/null';
		open STDOUT, '>&', $to;
		open STDERR, '>&', $to;
		my @network = $network eq 'yes' ? ($bb, 'nsenter', '-t', holder(), '-n') : ();
		exec @network, $bb, 'unshare', '-m', '-p', '-f', '-i', '-u', (@network ? () : '-n'),
			'perl', $0, '--inside', $root, $step, $secrets, $prctl, $limit;
		exit 127;
	}
	close $to;
	$| = 1;
	my ($end, $status, $why) = (uptime() + $timeout, undef, '');
	my ($text, $lines, @last) = ('', 0);
	my $grown = watch();
	my $say = sub {
		my ($line) = @_;
		$line =~ s/[\0-\x1f\x7f]+/ /g;
		push @last, $line;
		shift @last if @last > $last_lines;
		print "said $line\n" if ++$lines <= $most_lines;
	};
	while (1) {
		vec(my $ready = '', fileno $from, 1) = 1;
		if (select($ready, undef, undef, 0.5) > 0) {
			my $read = sysread $from, $text, 65536, length $text;
			last if !$read;
			$say->($1) while $text =~ s/^([^\n]{0,$most_bytes})\n// || $text =~ s/^([^\n]{$most_bytes})//;
		}
		# Children of another namespace's first process keep no pipe open once that is gone.
		if (!defined $status && waitpid($pid, 1) == $pid) { $status = $? }
		next if $why || defined $status;
		$why = uptime() > $end ? "it took longer than $timeout s" : $grown->();
		kill -9, $pid if $why; # with its group, in which the namespace's first process is
	}
	$say->($text) if length $text;
	waitpid $pid, 0 and $status = $? if !defined $status;
	print "said ($lines lines in all)\n" if $lines > $most_lines;
	my $ended = $status & 127 ? 128 + ($status & 127) : $status >> 8;
	$ended = $why =~ /longer/ ? 124 : 137 if $why;
	exit 0 if !$ended;
	print STDERR join("\n", @last, $why || "exit status $ended"), "\n";
	exit $ended;
}

# What tells, whenever called, why the command must be ended. It never waits for a count, which takes the longer the more
# there is: meanwhile the command could fill the pool, or outlast its time.
sub watch {
	my ($look, $next, $began, $from, $pid) = (0, uptime() + 2);
	my $crowded = 'it leaves no processes for counting what it writes';
	return sub {
		my $now = uptime();
		return '' if $now < $look;
		$look = $now + 0.5;
		my (undef, $size, undef, $free) = split ' ', (split /\n/, output($bb, 'df', '-k', '/build'))[-1] // '';
		return $crowded if !defined $free;
		return 'the storage pool has no space left for others' if $free < $size / 10 && $free < 1 << 20;
		if (!$from) {
			return '' if $now < $next;
			($began, ($from, $pid)) = ($now, start(@count));
			return $from ? '' : $crowded;
		}
		return '' if waitpid($pid, 1) != $pid;
		my $taken = taken(join '', <$from>);
		($from, $next) = (undef, $now + 2 + 10 * ($now - $began));
		return $crowded if !defined $taken;
		return $taken > $limit ? 'the image grows beyond ' . int($limit / 1024) . ' MiB' : '';
	};
}

# KiB, from what @count prints; empty files take space, too.
sub taken {
	my ($kib, $files) = $_[0] =~ /^([0-9]+)\s.*\n([0-9]+)\n/ or return;
	return $kib + 4 * $files;
}

sub bb { system($bb, @_) == 0 }
sub need { bb(@_) or die "busybox @_ failed\n" }

sub write_file {
	my ($path, $content) = @_;
	open my $file, '>', $path or die "writing $path failed: $!\n";
	print $file $content;
	close $file;
}

sub inside {
	syscall $prctl, 1, 9, 0, 0, 0; # PR_SET_PDEATHSIG: killed with whatever waits for it
	need('mount', '--bind', $root, $root);
	# A new one shows its own processes only; where LXD's own mounts forbid that, the builder's.
	open my $errors, '>&', \*STDERR;
	open STDERR, '>', '/dev/null';
	bb('mount', '-t', 'proc', 'proc', "$root/proc") or need('mount', '--rbind', '/proc', "$root/proc");
	need('mount', '-t', 'tmpfs', '-o', 'mode=755,size=256m', 'dev', "$root/dev");
	for my $name ('null', 'zero', 'full', 'random', 'urandom', 'tty') {
		write_file("$root/dev/$name", '');
		bb('mount', '--bind', "/dev/$name", "$root/dev/$name");
	}
	mkdir "$root/dev/pts";
	mkdir "$root/dev/shm";
	chmod 01777, "$root/dev/shm";
	bb('mount', '-t', 'devpts', '-o', 'newinstance,ptmxmode=0666,mode=0620', 'devpts', "$root/dev/pts");
	open STDERR, '>&', $errors;
	symlink 'pts/ptmx', "$root/dev/ptmx";
	symlink '/proc/self/fd', "$root/dev/fd";
	symlink "/proc/self/fd/$_->[0]", "$root/dev/$_->[1]" for [0, 'stdin'], [1, 'stdout'], [2, 'stderr'];
	# Brought along on a tmpfs, to be put in their places once paths lead nowhere but into the image.
	write_file("$root/dev/.resolv.conf", $network eq 'yes' ? output($bb, 'cat', '/etc/resolv.conf') : '');
	write_file("$root/dev/.hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n");
	need('cp', '-r', $secrets, "$root/dev/.secrets") if $place ne '';
	bb('hostname', 'localhost');
	bb('ip', 'link', 'set', 'lo', 'up') if $network ne 'yes';
	chdir $root and need('pivot_root', '.', '.');
	chdir '/';
	$bb = $image_bb;
	need('umount', '-l', '/');
	chdir '/';
	for my $name ('hosts', 'resolv.conf') {
		need('mount', '--bind', "/dev/.$name", "/etc/$name");
		unlink "/dev/.$name";
	}
	if ($place ne '') {
		need('mount', '-t', 'tmpfs', '-o', 'mode=755,size=64m', 'secrets', $place);
		need('cp', '-r', '/dev/.secrets/.', "$place/");
		need('rm', '-rf', '/dev/.secrets');
		need('chmod', '-R', 'a+rX', $place);
	}
	my %kept = map { $_ => 1 } 0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31; # capabilities(7), as in Docker
	$kept{$_} or syscall $prctl, 24, $_, 0, 0, 0 for 0 .. 63; # PR_CAPBSET_DROP
	my $pid = fork // die "starting it failed: $!\n";
	if (!$pid) {
		%ENV = %environment;
		umask 022;
		# From here on, paths are the image's, and one like /proc/1/root may lead to where only more rights do.
		keep_only(keys %kept);
		chdir $folder or bb('mkdir', '-p', $folder) && chdir $folder or die "no such folder: $folder\n";
		# gosu finds the program by the image's PATH.
		exec '/lxd-gosu', $user, @command or die "starting it failed: $!\n";
	}
	while ((my $gone = wait) != -1) {
		exit($? & 127 ? 128 + ($? & 127) : $? >> 8) if $gone == $pid;
	}
	exit 127;
}

# Gives up all other capabilities, before any program is started, which would have no more than the bounding set.
sub keep_only {
	my $bits = 0;
	$bits |= 1 << $_ for @_;
	my %capset = (157 => 126, 167 => 91, 171 => 184, 172 => 185); # its number, by prctl's of the same architecture
	my ($version, $sets) = (pack('Ll', 0x20080522, 0), pack('L6', $bits, $bits, 0, 0, 0, 0));
	syscall($capset{$prctl}, $version, $sets) == 0 or die "giving up capabilities failed: $!\n";
}
